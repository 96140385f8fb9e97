# Table 2, Phi-3 3.8B: LLaVA-1.5 data, CLIP-L/14@336.
RUN=llava-v1.5-phi3-mini
use training llm_phi3_mini tower_clip_336 data_llava15
