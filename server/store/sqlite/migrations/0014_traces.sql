-- Where the call that brought the message is in its trace: traceparent, and tracestate behind a space. NULL: nowhere.
ALTER TABLE deliveries ADD COLUMN trace TEXT;
