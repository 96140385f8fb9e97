# LLaVA-1.5's data as LLaVA lays it out: 558K captions, then 665K conversations.
PRETRAIN_FOLDER=$root/playground/data/LLaVA-Pretrain
PRETRAIN_DATA=$PRETRAIN_FOLDER/blip_laion_cc_sbu_558k.json
PRETRAIN_IMAGES=$PRETRAIN_FOLDER/images
FINETUNE_DATA=$root/playground/data/llava_v1_5_mix665k.json
FINETUNE_IMAGES=$root/playground/data
