# Cambrian-1's data as its two hub repositories unpack: 2.5M captions, then Cambrian-7M.
PRETRAIN_FOLDER=$root/playground/data/Cambrian-Alignment
PRETRAIN_DATA=$PRETRAIN_FOLDER/jsons/alignment_2.5m.jsonl
PRETRAIN_IMAGES=$PRETRAIN_FOLDER
FINETUNE_DATA=$root/playground/data/Cambrian-10M/jsons/Cambrian7M_withsystemprompt.jsonl
FINETUNE_IMAGES=$root/playground/data/Cambrian-10M
FINETUNE_SAVE_STEPS=2000                        # of some 55,000
