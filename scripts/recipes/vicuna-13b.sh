# Table 2, Vicuna-13B: LLaVA-1.5 data, CLIP-L/14@336.
RUN=llava-v1.5-13b
use training llm_vicuna_13b tower_clip_336 data_llava15
