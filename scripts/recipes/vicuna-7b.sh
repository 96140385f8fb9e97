# LLaVA-1.5 7B as the paper's table 2 has it: Vicuna-7B v1.5, CLIP-L/14@336, LLaVA-Pretrain 558K.
# Data: playground/data/LLaVA-Pretrain as LLaVA lays it out. Written for 8 GPUs of 80 GB.
LLM=lmsys/vicuna-7b-v1.5
VISION_TOWER=openai/clip-vit-large-patch14-336
DATA=$root/playground/data/LLaVA-Pretrain
PRETRAIN_DATA=$DATA/blip_laion_cc_sbu_558k.json
PRETRAIN_IMAGES=$DATA/images
WORDS=${WORDS:-$DATA/words.tsv}
LABELS=${LABELS:-$DATA/labels-clip-l-336-${SEA_PRESET:-best}}
PRETRAIN_BATCH=32
PRETRAIN_LR=1e-3
PRETRAIN_SAVE_STEPS=500
PRETRAIN_CHECKPOINTING=True
NUM_WORKERS=4
OUTPUT_DIR=${OUTPUT_DIR:-$root/checkpoints/llava-v1.5-7b-$OUTPUT_DIR_DEFAULT_SUFFIX}
