"""How a consumer gets its records: the threads, Arrow and files around the pure fetch machine (`client.fetcher`).

`engine` drives the machine in the user's own thread: drain the inbox, plan, perform. The `inbox` waits for the
connections of the `fetch_stream`s, one a replica actor, and reads them: no other thread is between them and `poll`.
`background` asks for metadata and offsets. `chunk` opens batches, from the stream or from mapped segments, as `rows`
(for messages) or `tables` (for Arrow).
"""
