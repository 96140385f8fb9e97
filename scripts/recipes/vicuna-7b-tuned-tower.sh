# Table 4, Vicuna-7B, CLIP-L/14@336 tuned in stage 2: LLaVA-1.5 data.
RUN=llava-v1.5-7b-tuned-tower
use training llm_vicuna_7b tower_clip_336 data_llava15 tuned_tower
