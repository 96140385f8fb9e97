# The miniature world: a CLIP of 64-pixel pictures, a small Llama, both trained from scratch.
# Its pictures are drawn here, in seconds, if they are not there. LLM_SIZE: small, medium or large.
LLM=$root/playground/models/llm-${LLM_SIZE:-small}
if [ ! -d "$LLM" ]; then
  echo "LLM_SIZE=$LLM_SIZE: choose small, medium or large" >&2
  exit 2
fi
VISION_TOWER=$root/playground/models/clip
DATA=$root/playground/data/mini
PRETRAIN_DATA=$DATA/pretrain.json
PRETRAIN_IMAGES=$DATA/images
COMMON_WORDS=${COMMON_WORDS-$DATA/common_words.txt}   # words that no picture shows
WORDS=${WORDS:-$DATA/words.tsv}
LABELS=${LABELS:-$DATA/labels-${SEA_PRESET:-best}}
EVAL_DATA=$DATA/heldout.json
EVAL_TRUTH=$DATA/truth.json
EVAL_STEPS=${EVAL_STEPS:-25}
PRETRAIN_BATCH=16
PRETRAIN_LR=2e-3
PRETRAIN_SAVE_STEPS=50
PRETRAIN_CHECKPOINTING=False
NUM_WORKERS=1
OUTPUT_DIR=${OUTPUT_DIR:-$root/checkpoints/mini${LLM_SIZE:+-$LLM_SIZE}-$OUTPUT_DIR_DEFAULT_SUFFIX}
if [ -z "${DRY_RUN:-}" ]; then python -m playground.generate --output "$root/playground/data"; fi
