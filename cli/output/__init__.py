"""What the command line shows.

terminal     progress bars and lines, jobs and errors (commands)
text_tables  tables for any width of terminal (commands, terminal)
waits        where a waiting job stands, and why it waits, in words (terminal)
"""
