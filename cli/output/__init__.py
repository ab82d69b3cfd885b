"""What the command line shows.

terminal         progress bars and lines, jobs and errors (commands)
text_tables      tables for any width of terminal (commands, terminal)
"""
