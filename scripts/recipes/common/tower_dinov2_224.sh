# DINOv2-L/14 at 224 pixels, 16 x 16 patches, with labels of CLIP-L/14 at 224: patch for patch.
# DINOv2 has no text encoder, so another encoder labels for it. The hub's model is one for 518 pixels
# whose processor cuts off the border, which CLIP sees; it is fitted here, once.
VISION_TOWER=$root/checkpoints/towers/dinov2-large-224
LABEL_TOWER=openai/clip-vit-large-patch14
LABEL_NAME=clip-l-224
FIT_TOWER=(
  python "$root/scripts/fit_tower.py" --model facebook/dinov2-large --size 224
  --output_dir "$VISION_TOWER"
)
prepare() {
  if [ ! -d "$VISION_TOWER" ]; then "${FIT_TOWER[@]}"; fi
}
if [ -n "${DRY_RUN:-}" ] && [ -z "${TOWER_SHOWN:-}" ] && [ "$STAGE" != eval ] &&
  [ ! -d "$VISION_TOWER" ]; then
  export TOWER_SHOWN=1 # once, also where a script starts another one
  printf '%q ' "${FIT_TOWER[@]}"
  echo
fi
