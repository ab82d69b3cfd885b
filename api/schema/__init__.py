"""Request bodies as models, and what each route says of itself. Answers stand beside the code that builds them.

bodies           one model for each request body (contracts)
blocks           blocks within bodies, such as a bucket or a webhook
model_bodies     the bodies in which model files are entered
key_bodies       the bodies in which tenants and keys are made
field_types      types of fields that carry a rule of their own
fields           rules that no schema can say (contracts)
validation       bodies against models; pydantic's findings as our errors (contracts)
conditions       conditional and range headers, as routes describe them
described        routes in their own words, for the OpenAPI document (contracts, server)
"""
