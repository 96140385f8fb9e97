# Labels of TIPSv2-L/14 at 448 pixels, whose 32 x 32 patches have the words of their own space, carried
# to the tower's patches by overlap. Both must see the same part of an image: TIPSv2 sees all of it,
# stretched to a square, as SigLIP does and CLIP does not.
case $VISION_TOWER in
  *siglip*) ;;
  *)
    echo "labels of TIPSv2 belong to SigLIP's and SigLIP 2's view of an image, not to that of $VISION_TOWER" >&2
    exit 2
    ;;
esac
LABEL_TOWER=google/tipsv2-l14
LABEL_NAME=tipsv2-l-448
