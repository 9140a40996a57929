#!/bin/bash
# One training on several machines under Slurm: `sbatch configs/slurm.sh runs/age.yaml`. One torchrun a machine, a
# process a GPU. The run's `output` must be on a disk that all machines see. Slurm may stop and requeue it at any time:
# --resume goes on from the last complete checkpoint, and begins where there is none.
#SBATCH --job-name=rarl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300  # five minutes before the end: a checkpoint is saved within the step
#SBATCH --output=%x-%j.log
set -euo pipefail

config=${1:?the YAML of the run, such as runs/age.yaml}
shift
# Computing nodes often see no internet: fetch the model once where there is some, `hf download MODEL`.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
gpus=${SLURM_GPUS_ON_NODE:-8}
# Not through head, which may end before the list does: with pipefail the job would end, too.
read -r first <<< "$(scontrol show hostnames "$SLURM_JOB_NODELIST")"

# The place of the first machine is decided by its name, so a requeued job finds its way on other machines too.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "$gpus" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$first:${RDZV_PORT:-29500}" \
    -m rarl train "$config" --resume "$@"
