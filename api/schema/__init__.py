"""Request bodies as models, and what each route says of itself. Answers stand beside the code that builds them.

bodies           one model for each request body (contracts)
blocks           blocks within bodies, such as a bucket or a webhook
batch_bodies     the bodies of batches
model_bodies     the bodies in which model files are entered
bulk_bodies      the bodies about jobs that are there: once more, and many at once
key_bodies       the bodies in which keys are made
session_bodies   the body by which a browser signs in
rollout_bodies   the body in which a rollout is ordered
tenant_bodies    the bodies in which tenants are made and limited
field_types      types of fields that carry a rule of their own
fields           rules that no schema can say (contracts)
validation       bodies against models; pydantic's findings as our errors (contracts)
conditions       conditional and range headers, as routes describe them
described        routes in their own words, for the OpenAPI document (contracts, server)
"""
