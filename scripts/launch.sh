# How a training starts, shared by both stages: processes, precision, the flags that do not change
# between the stages, and signals. Sourced by stage1.sh and stage2.sh, after recipe.sh.

# The processes: one for each GPU, or two on the CPU with one thread each.
if [ -z "${NUM_GPUS:-}" ]; then
  NUM_GPUS=$has_gpu
  if [ "$NUM_GPUS" = 0 ]; then NUM_GPUS=2; fi
fi
if [ "$has_gpu" = 0 ]; then
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" DS_ACCELERATOR=cpu
  PRECISION=()
else
  PRECISION=(--bf16 True --tf32 True)
fi

LAUNCH=(
  python -m llava_sea.train.launch --num_gpus "$NUM_GPUS" --master_port "${MASTER_PORT:-29500}"
  ${HOSTFILE:+--hostfile "$HOSTFILE"}           # several machines with NUM_GPUS each
  "$root/llava_sea/train/train_mem.py"
)
COMMON_FLAGS=(
  --vision_tower "$VISION_TOWER"
  --mm_projector_type mlp2x_gelu
  --mm_vision_select_layer -2                   # its last but one hidden state feeds the projector
  --weight_decay 0.
  --warmup_steps 0.03                           # below 1: a share of the steps
  --lr_scheduler_type cosine
  --logging_steps 1
  --save_strategy steps
  --save_total_limit 1                          # checkpoints kept, for resuming
  --model_max_length 2048                       # tokens of a sequence, the picture's included
  --dataloader_num_workers "$NUM_WORKERS"
  --report_to tensorboard
  --output_dir "$OUTPUT_DIR"
  ${PRECISION[@]+"${PRECISION[@]}"}
)

is_finished() { [ -e "$1/mm_projector.bin" ]; }

# Print commands so that a shell reads them back.
print_commands() {
  printf '%q ' "$@"
  echo
}

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
