# Stage 2 on a mix of FineVision's subsets: conversations, VQA, text in images, charts, documents, text
# alone. Each subset has a folder of train-*.parquet, which hold the images; links give the files names
# of their own, since images are called by them.
FINEVISION=$root/playground/data/FineVision
FINETUNE_IMAGES=$FINEVISION
FINETUNE_DATA=()
if [ -z "${DRY_RUN:-}" ] && [ -d "$FINEVISION" ]; then mkdir -p "$FINEVISION/mix"; fi
for subset in LLaVA_Instruct_150K "sharegpt4v(coco)" vqav2 aokvqa cocoqa textvqa textcaps ocrvqa \
  docvqa chartqa ai2d_merged scienceqa text_openhermes_2_5; do
  for file in "$FINEVISION/$subset"/train-*.parquet; do
    link=$FINEVISION/mix/$subset-${file##*/}
    FINETUNE_DATA+=("$link")
    if [ -z "${DRY_RUN:-}" ] && [ -e "$file" ]; then ln -sfn "$file" "$link"; fi
  done
done
