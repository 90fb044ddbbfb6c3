"""How a consumer gets its records: the threads, Arrow and files around the pure fetch machine (`client.fetcher`).

`engine` drives the machine in the user's own thread: drain the inbox, plan, perform. `fetch_stream` has one thread a
replica actor that reads its exchange and fills the `inbox`: one hop from the network to whoever sits in `poll`.
`background` asks for metadata and offsets. `chunk` opens batches, from the stream or from mapped segments, as `rows`
(for messages) or `tables` (for Arrow).
"""
