# Stage 2, shared by finetune.sh and finetune_lora.sh, which say in TUNING_FLAGS what is trained.
# Expects setup_env.sh and recipe.sh to have been sourced; "$@" are flags that win over these.

# Stage 1's result. Another one's gets a folder of its own: two runs never share one.
STAGE1_RESULT=$root/checkpoints/$RUN-pretrain-sea/mm_projector.bin
if [ -n "${PROJECTOR:-}" ] && [ "$OUTPUT_DIR" = "$root/checkpoints/$RUN-$STAGE" ]; then
  OUTPUT_DIR+=-from-$(basename "$(dirname "$PROJECTOR")")
fi
PROJECTOR=${PROJECTOR:-$STAGE1_RESULT}
source "$root/scripts/launch.sh"

STAGE2_FLAGS=(
  --deepspeed "$root/zero_configs/${FINETUNE_ZERO:-zero3}.json" # weights split over the GPUs too
  --model_name_or_path "$LLM"
  --version "$FINETUNE_VERSION"                 # conversation template: v1, llama_3, auto (the LLM's)
  --pretrain_mm_mlp_adapter "$PROJECTOR"        # the projector of stage 1
  --data_path "${FINETUNE_DATA[@]}"             # conversations, with pictures or without
  --image_folder "$FINETUNE_IMAGES"
  --image_aspect_ratio pad                      # to a square: nothing of a picture is cut off
  --group_by_modality_length True               # batches of one modality and like length
  --pack_sequences "${PACK_SEQUENCES:-False}"   # no padding: samples in a row, each alone
  --num_train_epochs "${FINETUNE_EPOCHS:-1}"
  ${FINETUNE_STEPS:+--max_steps "$FINETUNE_STEPS"} # instead of epochs
  --per_device_train_batch_size "$FINETUNE_BATCH"
  --per_device_eval_batch_size 4
  --gradient_accumulation_steps "${FINETUNE_ACCUMULATION:-1}"
  --save_steps "$FINETUNE_SAVE_STEPS"
  --gradient_checkpointing "$GRADIENT_CHECKPOINTING" # activations computed twice, not kept
)
TRAIN=("${LAUNCH[@]}" "${STAGE2_FLAGS[@]}" "${COMMON_FLAGS[@]}" "${TUNING_FLAGS[@]}" "$@")

# What to do with the result.
print_next() {
  print_commands python -m llava_sea.serve.cli --model-path "$OUTPUT_DIR" \
    --image-file "${CHAT_IMAGE:-picture.jpg}"
  print_commands python -m llava_sea.model.export --model_path "$OUTPUT_DIR" \
    --output_dir "$OUTPUT_DIR-hf"
}

if [ -n "${DRY_RUN:-}" ]; then
  print_commands "${TRAIN[@]}"
  print_next
  exit 0
fi
if [ ! -f "$PROJECTOR" ]; then
  if [ "$PROJECTOR" = "$STAGE1_RESULT" ]; then
    echo "there is no $PROJECTOR: stage 2 starts from stage 1's projector. Run first:" >&2
    echo "  ${RECIPE_PREFIX}bash scripts/pretrain_sea.sh" >&2
    echo "or name another stage 1's result: PROJECTOR=.../mm_projector.bin" >&2
  else
    echo "PROJECTOR=$PROJECTOR: no such file; it is the mm_projector.bin of a stage 1" >&2
  fi
  exit 2
fi

prepare
run_and_wait "${TRAIN[@]}"
echo "the model is in $OUTPUT_DIR. To chat with it, and to write it for other tools:"
print_next
