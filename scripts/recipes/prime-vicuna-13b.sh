# Table 1, SEA-PRIME, Vicuna-13B: Cambrian data, SigLIP-SO400M/14@384, tuned in stage 2.
RUN=sea-prime-vicuna-13b
use training llm_vicuna_13b tower_siglip_384 data_cambrian tuned_tower
