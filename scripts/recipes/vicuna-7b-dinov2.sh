# Table 5, Vicuna-7B, DINOv2-L/14@224 with labels of CLIP-L/14@224: LLaVA-1.5 data.
RUN=llava-v1.5-7b-dinov2
use training llm_vicuna_7b tower_dinov2_224 data_llava15
