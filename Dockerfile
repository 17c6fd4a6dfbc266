# One image for every role: the command names it, as in `docker run … svc facade --port 8000`.

FROM rust:1.95.0-bookworm AS dependencies
WORKDIR /build
# Built from these files alone, this layer stays as long as they do.
COPY Cargo.toml Cargo.lock ./
COPY vendor vendor
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --locked --release \
    && cargo clean --locked --release --package svc

FROM dependencies AS build
COPY src src
RUN cargo build --locked --release --bin svc

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="svc" \
      org.opencontainers.image.description="A message system in one executable: facade, logging and messages roles on Consul and Hazelcast" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/doc/svc/
COPY --from=build /build/target/release/svc /usr/local/bin/
# By number, so that a cluster that insists on it can see that it is not root.
USER 10001:10001
ENV SVC_HOST=0.0.0.0
EXPOSE 8000 8100 8180
# The instance in this container: at $PORT, or else at its role's usual port.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["svc", "health"]
ENTRYPOINT ["svc"]
CMD ["help"]
