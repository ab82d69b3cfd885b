"""What the command line shows.

terminal     progress bars and lines, jobs and errors (commands)
batch_progress  the progress of a batch (commands)
job_log      what ComfyUI printed, and how it goes on (commands)
dry_run_report  what would become of a job (commands)
findings     a line for each thing that doctor looked at (commands)
text_tables  tables for any width of terminal (commands, terminal)
waits        where a waiting job stands, and why it waits, in words (terminal)
"""
