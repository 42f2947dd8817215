#!/bin/sh
# Classify a LIST with a Slurm job array: one shard per task, then one file.
#
#   sbatch examples/cluster/slurm.sh model.bundle T.json list.csv results/first
#
# A task that was killed or requeued goes on where it stopped. Submit the same line again to finish what is left. For
# another list, bundle or number of shards, give another folder.
#SBATCH --job-name=dynvid
#SBATCH --array=1-16
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --requeue
set -eu
bundle=$1 thresholds=$2 list=$3 results=$4
mkdir -p "$results"
dynvid classify "$bundle" --data "$list" --thresholds "$thresholds" --threads "$SLURM_CPUS_PER_TASK" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" -o "$results/$SLURM_ARRAY_TASK_ID.jsonl"

# When all tasks are done:
#   dynvid merge results/first -o results.jsonl
