# Stage 2 trains the vision tower too, at the paper's rate.
FINETUNE_TOWER_LR=2e-6
