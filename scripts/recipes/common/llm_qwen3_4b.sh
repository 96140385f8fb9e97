# Qwen3-4B. The rate of stage 2 is LLaVA-OneVision's for Qwen2-7B (LLaVA-NeXT, scripts/train/finetune_si.sh).
use llm_qwen3_0.6b
LLM=Qwen/Qwen3-4B
FINETUNE_LR=1e-5
