# LLaVA-1.5's batches of 256 and 128 on one GPU, where ZeRO-3 has nothing to split. Words that occur less
# than five times are most of the list, and of the time that labels take: this list has none of them.
MIN_COUNT=${MIN_COUNT:-5}
WORDS=${WORDS:-$PRETRAIN_FOLDER/words-$MIN_COUNT-times.tsv}
LABEL_NAME+=-$MIN_COUNT-times
NUM_GPUS=${NUM_GPUS:-1}
PRETRAIN_ACCUMULATION=8
FINETUNE_BATCH=8
FINETUNE_ACCUMULATION=16
FINETUNE_ZERO=zero2
