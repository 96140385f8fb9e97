# Table 1, SEA-PRIME, Phi-3-mini 3.8B: Cambrian data, SigLIP-SO400M/14@384, tuned in stage 2.
RUN=sea-prime-phi3-mini
use training llm_phi3_mini tower_siglip_384 data_cambrian tuned_tower
