"""The Model Context Protocol (MCP): what agents do with the fleet, as tools. Nothing here has a queue of its own.

endpoint         the one route: a message in, an answer or a stream out
json_rpc         one message, its protocol version, and what is wrong with it
protocol_errors  errors as JSON-RPC has them
tool             a tool, what it makes, and how it is listed
arguments        what each tool takes
tool_views       what tools answer
submitting       tools that submit
looking          tools that look, and that cancel
showing          tools that show pictures
waits            tools that wait
toolbox          all of them
"""
