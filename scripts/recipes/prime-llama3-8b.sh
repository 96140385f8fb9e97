# Table 1, SEA-PRIME, Llama-3-8B-Instruct: Cambrian data, SigLIP-SO400M/14@384, tuned in stage 2.
RUN=sea-prime-llama3-8b
use training llm_llama3_8b tower_siglip_384 data_cambrian tuned_tower
