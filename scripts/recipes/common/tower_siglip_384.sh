# SigLIP-SO400M/14 at 384 pixels: 27 x 27 patches.
VISION_TOWER=google/siglip-so400m-patch14-384
LABEL_NAME=siglip-so-384
