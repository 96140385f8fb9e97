# SigLIP 2-SO400M/14 at 384 pixels: 27 x 27 patches.
VISION_TOWER=google/siglip2-so400m-patch14-384
LABEL_NAME=siglip2-so-384
