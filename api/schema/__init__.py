"""Request bodies and answers as models, and the OpenAPI document that is made of them.

bodies           one model for each request body (contracts)
blocks           blocks within bodies, such as a bucket or a webhook
field_types      types of fields that carry a rule of their own
fields           rules that no schema can say (contracts)
validation       bodies against models; pydantic's findings as our errors (contracts)
answers          answers as models, held against what is served by tests
conditions       conditional and range headers, as routes describe them
openapi          the document: routes in their own words (server)
"""
