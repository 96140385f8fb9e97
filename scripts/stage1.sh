# Stage 1, shared by pretrain_sea.sh and pretrain.sh, which say in SEA_FLAGS what SEA does.
# Expects setup_env.sh and recipe.sh to have been sourced; "$@" are flags that win over these.
# WARM_START=1: before stage 1 the projector learns as many steps from the alignment loss alone,
# without the LLM; stage 1 starts from what it leaves.
source "$root/scripts/launch.sh"

STAGE1_FLAGS=(
  --model_name_or_path "$LLM"                   # the frozen LLM
  --version plain                               # <image> + caption, as LLaVA's stage 1
  --tune_mm_mlp_adapter True                    # stage 1: the projector alone is trained
  --data_path "${PRETRAIN_DATA[@]}"
  --image_folder "$PRETRAIN_IMAGES"
  --image_aspect_ratio square
  --num_train_epochs 1
  ${PRETRAIN_STEPS:+--max_steps "$PRETRAIN_STEPS"} # instead of an epoch
  --per_device_train_batch_size "$PRETRAIN_BATCH"
  --per_device_eval_batch_size "$PRETRAIN_BATCH"
  --gradient_accumulation_steps "${PRETRAIN_ACCUMULATION:-1}"
  --learning_rate "$PRETRAIN_LR"
  --save_steps "$PRETRAIN_SAVE_STEPS"
  --gradient_checkpointing "$GRADIENT_CHECKPOINTING"
)
EVAL_FLAGS=()
if [ -n "${EVAL_DATA:-}" ]; then
  EVAL_FLAGS+=(
    --sea_eval_data "$EVAL_DATA"                # held out: caption loss, TACS, gap, nearest words
    --sea_eval_word_list "$WORDS"
    --sea_eval_steps "$EVAL_STEPS"
  )
  if [ -n "${EVAL_TRUTH:-}" ]; then EVAL_FLAGS+=(--sea_eval_truth "$EVAL_TRUTH"); fi
fi

TRAIN=(
  "${LAUNCH[@]}" --deepspeed "$root/zero_configs/${PRETRAIN_ZERO:-zero2}.json"
  "${STAGE1_FLAGS[@]}" ${EVAL_FLAGS[@]+"${EVAL_FLAGS[@]}"} "${COMMON_FLAGS[@]}"
  ${SEA_FLAGS[@]+"${SEA_FLAGS[@]}"} "$@"
)
if [ "$WARM_START" = 1 ]; then
  WARM_DIR=${OUTPUT_DIR%/}-warm-start
  WARM=(
    "${LAUNCH[@]}" "${STAGE1_FLAGS[@]}" "${COMMON_FLAGS[@]}" "${SEA_FLAGS[@]}" "$@"
    --sea_align_only True --deepspeed "$root/zero_configs/zero2.json" --use_liger_kernel False
    --resume_from_checkpoint True --output_dir "$WARM_DIR"
  )
fi
# The report; of which runs, the scripts add. Plain LLaVA's run and SEA's are siblings by name,
# checkpoints/mini-pretrain and checkpoints/mini-pretrain-sea.
REPORT=(
  python -m llava_sea.report --words "$WORDS"
  --data_path "${EVAL_DATA:-$PRETRAIN_DATA}" --image_folder "$PRETRAIN_IMAGES"
  ${EVAL_TRUTH:+--truth "$EVAL_TRUTH"}
)

if [ -n "${DRY_RUN:-}" ]; then
  if [ "$WARM_START" = 1 ]; then
    print_commands "${WARM[@]}"
    echo "stage 1 also gets the flags that its warm start writes into $WARM_DIR/stage1_flags" >&2
  fi
  print_commands "${TRAIN[@]}"
  print_commands "${REPORT[@]}" --run "$OUTPUT_DIR" ${BASELINE:+--baseline "$BASELINE"}
  exit 0
fi
