# Table 2, Vicuna-7B: LLaVA-1.5 data, CLIP-L/14@336.
RUN=llava-v1.5-7b
use training llm_vicuna_7b tower_clip_336 data_llava15
