"""The processes of one machine: what they need, how they start, run and end.

stack           which processes, on which ports, in which order (up, demo)
processes       child processes: started, restarted, ended (stack)
broker          the embedded broker (stack)
flower          Flower with a password and without buttons (services)
prometheus      a Prometheus beside the stack, where one is installed (up)
credentials     Flower's password, kept in the data directory (up, flower)
data_dir        the data directory, made and tried (up, services)
startup_checks  waits for broker and ledger (services)
log_watch       warnings of all logs on the screen (up)
storage_copy    the files of a directory into a bucket (storage)
queue_lengths   what waits in the broker's queues (flower)
"""
