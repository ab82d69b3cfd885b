"""How many GPUs the fleet wants, who starts and stops them, and how all are renewed.

rollout_commands  rollout: restart or upgrade all hosts, one after the other
scaling_commands  autoscale: what each pool wants; scale-in: give hosts back
vast_commands     vast-worker: a worker of Vast.ai's serverless platform
"""

from __future__ import annotations
