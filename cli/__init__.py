"""The command `comfyline`.

main        finds the command, runs it, turns errors into one line
commands/   one module for each command or family of commands
doctor/     checks of this machine and of the fleet
local/      the processes of this machine: broker, Flower, the whole stack
vast/       a worker of Vast.ai before a server
remote/     the client of a server, and what it needs
output/     what a terminal shows
exit_codes  exit statuses that scripts rely on
"""
