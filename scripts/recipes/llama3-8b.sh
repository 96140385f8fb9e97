# Table 2, Llama-3-8B: LLaVA-1.5 data, CLIP-L/14@336.
RUN=llava-v1.5-llama3-8b
use training llm_llama3_8b tower_clip_336 data_llava15
