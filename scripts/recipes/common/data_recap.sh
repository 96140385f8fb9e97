# Stage 1 on LLaVA-1.5's 558K images with long captions; the parquet files hold the images too.
PRETRAIN_FOLDER=$root/playground/data/LLaVA-ReCap-558K
PRETRAIN_DATA=("$PRETRAIN_FOLDER"/data/train-*.parquet)
PRETRAIN_IMAGES=$PRETRAIN_FOLDER
