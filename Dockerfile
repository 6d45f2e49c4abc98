# docker build --tag hindcast:0.1.0 .
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && k8s/rootfs target/release/hindcast /rootfs && mkdir /data

FROM scratch
COPY --from=build /rootfs /
# Its user's, so that a new volume is too.
COPY --from=build --chown=65532:65532 /data /var/lib/hindcast
USER 65532:65532
EXPOSE 4780 9464
ENTRYPOINT ["/usr/local/bin/hindcast"]
CMD ["serve", "--data-dir=/var/lib/hindcast"]
