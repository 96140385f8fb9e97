# CLIP-L/14 at 336 pixels: 24 x 24 patches.
VISION_TOWER=openai/clip-vit-large-patch14-336
LABEL_NAME=clip-l-336
