# Today: Llama-3.2-1B with CLIP-L/14@336: LLaVA-1.5 data.
RUN=llama3.2-1b
use training llm_llama3.2_1b tower_clip_336 data_llava15
