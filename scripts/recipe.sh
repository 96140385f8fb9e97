# Loads RECIPE (default: mini), the variables that say what is trained on what. Sourced by the
# scripts after setup_env.sh, with STAGE naming what they do: pretrain-sea, finetune, ...
#
# A recipe sets RUN (the output folders' stem), LLM, FINETUNE_VERSION (its template), VISION_TOWER
# and the PRETRAIN_* and FINETUNE_* of both stages; most of it with `use`, from recipes/common/.

use() {
  local part
  for part; do source "$root/scripts/recipes/common/$part.sh"; done
}
# What has to be made before a run and can be made here; recipes that need something replace this.
prepare() { :; }

case "${RECIPE:=mini}" in
  */*) recipe_file= ;;
  *) recipe_file=$root/scripts/recipes/$RECIPE.sh ;;
esac
if [ ! -f "$recipe_file" ]; then
  echo "RECIPE=$RECIPE: there is no such recipe. There are:" >&2
  for recipe_file in "$root"/scripts/recipes/*.sh; do
    printf '  %-24s %s\n' "$(basename "$recipe_file" .sh)" "$(sed -n '1s/^# //p' "$recipe_file")" >&2
  done
  exit 2
fi
source "$recipe_file"
# LABELS_FROM=tipsv2: labels of another encoder than the recipe's, for a run of its own.
if [ -n "${LABELS_FROM:-}" ]; then
  if ! [[ -f $root/scripts/recipes/common/labels_$LABELS_FROM.sh && $LABELS_FROM != */* ]]; then
    echo "LABELS_FROM=$LABELS_FROM: choose tipsv2, or leave it out for the recipe's own labels" >&2
    exit 2
  fi
  use "labels_$LABELS_FROM"
  RUN+=-labels-$LABELS_FROM
fi

# Words and labels lie beside the captions; labels belong to an encoder and a preset too.
WORDS=${WORDS:-$PRETRAIN_FOLDER/words.tsv}
LABELS=${LABELS:-$PRETRAIN_FOLDER/labels-${LABEL_NAME:+$LABEL_NAME-}${SEA_PRESET:-best}}
OUTPUT_DIR=${OUTPUT_DIR:-$root/checkpoints/$RUN-$STAGE}
# How a command with this recipe begins, for messages.
RECIPE_PREFIX=
if [ "$RECIPE" != mini ]; then RECIPE_PREFIX="RECIPE=$RECIPE "; fi
if [ -n "${LABELS_FROM:-}" ]; then RECIPE_PREFIX+="LABELS_FROM=$LABELS_FROM "; fi
if [ -n "${LLM_SIZE:-}" ]; then RECIPE_PREFIX+="LLM_SIZE=$LLM_SIZE "; fi

# The GPUs here. Commands of a real recipe that are only printed, where no GPU is, are those of a
# machine with eight.
has_gpu=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
if [ "$has_gpu" = 0 ] && [ -n "${DRY_RUN:-}" ] && [ "$RECIPE" != mini ]; then
  has_gpu=8
  echo "no GPU is visible here: a machine with ${NUM_GPUS:-$has_gpu} is assumed" >&2
fi
