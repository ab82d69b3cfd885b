"""Prompts on their way through one ComfyUI server.

session          the HTTP client and the websocket of one server (tasks.runner)
prompt           one prompt, and the wait for its end (session)
event_socket     the websocket, always drained (session)
frames           its frames, decoded (event_socket)
mailbox          news from the socket's thread to the waiting one (prompt)
account          what the websocket told of a prompt (prompt)
progress         one number that never falls (prompt)
node_work        how much of the work each node is (progress)
polling          when to ask, and for how long (prompt)
result           what a whole prompt leaves behind (prompt, tasks.runner)
warm_up          a workflow after the instance's start (tasks.instance)
"""
