# DINOv2-L/14 at 224 pixels, 16 x 16 patches, with labels of CLIP-L/14 at 224: patch for patch.
# DINOv2 has no text encoder, so another encoder labels for it. The hub's model is one for 518 pixels
# whose processor cuts off the border, which CLIP sees; it is fitted here, once.
VISION_TOWER=$root/checkpoints/towers/dinov2-large-224
LABEL_TOWER=openai/clip-vit-large-patch14
LABEL_NAME=clip-l-224
prepare() {
  if [ ! -d "$VISION_TOWER" ]; then
    python "$root/scripts/fit_dinov2.py" --model facebook/dinov2-large --size 224 \
      --output_dir "$VISION_TOWER"
  fi
}
