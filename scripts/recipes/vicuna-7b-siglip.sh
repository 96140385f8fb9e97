# Table 2, Vicuna-7B with SigLIP-SO400M/14@384: LLaVA-1.5 data.
RUN=llava-v1.5-7b-siglip
use training llm_vicuna_7b tower_siglip_384 data_llava15
