# Table 1, SEA-PRIME, Vicuna-7B: Cambrian data, SigLIP-SO400M/14@384, tuned in stage 2.
RUN=sea-prime-vicuna-7b
use training llm_vicuna_7b tower_siglip_384 data_cambrian tuned_tower
