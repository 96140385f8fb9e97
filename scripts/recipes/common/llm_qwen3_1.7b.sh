# Qwen3-1.7B; as Qwen3-0.6B.
use llm_qwen3_0.6b
LLM=Qwen/Qwen3-1.7B
