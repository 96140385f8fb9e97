# Table 2, Gemma-2B: LLaVA-1.5 data, CLIP-L/14@336.
RUN=llava-v1.5-gemma-2b
use training llm_gemma_2b tower_clip_336 data_llava15
