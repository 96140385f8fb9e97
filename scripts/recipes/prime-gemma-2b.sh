# Table 1, SEA-PRIME, Gemma-2B: Cambrian data, SigLIP-SO400M/14@384, tuned in stage 2.
RUN=sea-prime-gemma-2b
use training llm_gemma_2b tower_siglip_384 data_cambrian tuned_tower
