# Stage 1, shared by pretrain_sea.sh and pretrain.sh, which say in SEA_FLAGS what SEA does.
# Expects setup_env.sh and a recipe to have been sourced; "$@" are flags that win over these.

# The processes: one for each GPU, or two on the CPU with one thread each.
if [ -z "${NUM_GPUS:-}" ]; then
  NUM_GPUS=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
  if [ "$NUM_GPUS" = 0 ]; then NUM_GPUS=2; fi
fi
if ! nvidia-smi -L >/dev/null 2>&1; then
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" DS_ACCELERATOR=cpu
  PRECISION=()
else
  PRECISION=(--bf16 True --tf32 True)
fi

STAGE1_FLAGS=(
  --deepspeed "$root/zero_configs/zero2.json"
  --model_name_or_path "$LLM"                   # the frozen LLM
  --version plain                               # <image> + caption, as LLaVA's stage 1
  --vision_tower "$VISION_TOWER"                # the frozen vision encoder
  --mm_projector_type mlp2x_gelu
  --mm_vision_select_layer -2                   # its last but one hidden state feeds the projector
  --tune_mm_mlp_adapter True                    # stage 1: the projector alone is trained
  --data_path "$PRETRAIN_DATA"
  --image_folder "$PRETRAIN_IMAGES"
  --image_aspect_ratio square
  --num_train_epochs 1
  --per_device_train_batch_size "$PRETRAIN_BATCH"
  --per_device_eval_batch_size "$PRETRAIN_BATCH"
  --gradient_accumulation_steps "${PRETRAIN_ACCUMULATION:-1}"
  --learning_rate "$PRETRAIN_LR"
  --weight_decay 0.
  --warmup_steps 0.03                           # below 1: a share of the steps
  --lr_scheduler_type cosine
  --logging_steps 1
  --save_strategy steps
  --save_steps "$PRETRAIN_SAVE_STEPS"
  --save_total_limit 1
  --model_max_length 2048
  --gradient_checkpointing "$PRETRAIN_CHECKPOINTING"
  --dataloader_num_workers "$NUM_WORKERS"
  --report_to tensorboard
  --output_dir "$OUTPUT_DIR"
)
if [ -n "${EVAL_DATA:-}" ]; then
  STAGE1_FLAGS+=(
    --sea_eval_data "$EVAL_DATA"                # held out: caption loss, TACS, gap, nearest words
    --sea_eval_word_list "$WORDS"
    --sea_eval_steps "$EVAL_STEPS"
  )
  if [ -n "${EVAL_TRUTH:-}" ]; then STAGE1_FLAGS+=(--sea_eval_truth "$EVAL_TRUTH"); fi
fi

TRAIN=(
  python -m llava_sea.train.launch --num_gpus "$NUM_GPUS" --master_port "${MASTER_PORT:-29500}"
  "$root/llava_sea/train/train_mem.py" "${STAGE1_FLAGS[@]}"
  ${PRECISION[@]+"${PRECISION[@]}"} ${SEA_FLAGS[@]+"${SEA_FLAGS[@]}"} "$@"
)
# The report; of which runs, the scripts add. Plain LLaVA's run and SEA's are siblings by name,
# checkpoints/mini-pretrain and checkpoints/mini-pretrain-sea.
REPORT=(
  python -m llava_sea.report --words "$WORDS"
  --data_path "${EVAL_DATA:-$PRETRAIN_DATA}" --image_folder "$PRETRAIN_IMAGES"
  ${EVAL_TRUTH:+--truth "$EVAL_TRUTH"}
)

is_finished() { [ -e "$1/mm_projector.bin" ]; }

# Run a command, hand SIGTERM and Ctrl-C on to it, and wait until it is done with them: training
# saves a checkpoint first. Bash itself would die at once and leave the command behind.
run_and_wait() { run_and_return "$@" || exit; }
run_and_return() {
  local status=0 child
  "$@" &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null' TERM INT
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  trap - TERM INT
  return "$status"
}

if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${TRAIN[@]}"; echo
  printf '%q ' "${REPORT[@]}" --run "$OUTPUT_DIR" ${BASELINE:+--baseline "$BASELINE"}; echo
  exit 0
fi
