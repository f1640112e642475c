import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.RoundingMode;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Peer: Kafka Streams, exactly_once_v2, two threads, its persistent store with caching and changelog.
 *
 * <p>The same work as fill_peer.py: the position of (user, portfolio, symbol) by weighted-average cost in BigDecimal,
 * and an alert when the notional is over the limit. Arguments: BROKER TRADES ALERTS APPLICATION FOLDER MESSAGES. Prints
 * `first TIME`, seconds since 1970, at the first trade; ends with a commit after MESSAGES.
 */
public class KafkaStreamsPeer {
  static final int SCALE = 18;
  static final BigDecimal LIMIT = new BigDecimal(960);
  static final ObjectMapper JSON = new ObjectMapper();
  static final AtomicLong handled = new AtomicLong();
  static final CountDownLatch done = new CountDownLatch(1);
  static long messages;

  @JsonIgnoreProperties(ignoreUnknown = true)
  public static class Trade {
    public String trade_id, user_id, portfolio_id, symbol, side, quantity, price, fee;
  }

  /** quantity, cost basis, realised P&L, fees */
  record Position(BigDecimal quantity, BigDecimal cost, BigDecimal realized, BigDecimal fees) {
    static final Position FLAT = new Position(BigDecimal.ZERO, BigDecimal.ZERO, BigDecimal.ZERO, BigDecimal.ZERO);

    static Position read(byte[] bytes) throws IOException {
      if (bytes == null) return FLAT;
      DataInputStream in = new DataInputStream(new ByteArrayInputStream(bytes));
      return new Position(decimal(in), decimal(in), decimal(in), decimal(in));
    }

    byte[] written() throws IOException {
      ByteArrayOutputStream bytes = new ByteArrayOutputStream(64);
      DataOutputStream out = new DataOutputStream(bytes);
      for (BigDecimal each : new BigDecimal[] {quantity, cost, realized, fees}) {
        byte[] digits = each.unscaledValue().toByteArray();
        out.writeByte(each.scale());
        out.writeByte(digits.length);
        out.write(digits);
      }
      return bytes.toByteArray();
    }

    private static BigDecimal decimal(DataInputStream in) throws IOException {
      int scale = in.readByte();
      return new BigDecimal(new BigInteger(in.readNBytes(in.readByte())), scale);
    }

    Position after(boolean buys, BigDecimal size, BigDecimal price, BigDecimal notional, BigDecimal fee) {
      int side = buys ? 1 : -1;
      BigDecimal signed = buys ? size : size.negate();
      if (quantity.signum() == 0 || quantity.signum() == side)
        return new Position(
            quantity.add(signed), cost.add(buys ? notional : notional.negate()), realized, fees.add(fee));
      BigDecimal held = quantity.abs(), closed = size.min(held);
      BigDecimal released =
          closed.compareTo(held) == 0 ? cost : cost.multiply(closed).divide(held, SCALE, RoundingMode.HALF_EVEN);
      BigDecimal part = closed.compareTo(size) == 0 ? notional : rounded(closed.multiply(price));
      BigDecimal gain = quantity.signum() > 0 ? part.subtract(released) : part.negate().subtract(released);
      BigDecimal rest = notional.subtract(part);
      BigDecimal left = size.compareTo(closed) == 0 ? cost.subtract(released) : buys ? rest : rest.negate();
      return new Position(quantity.add(signed), left, realized.add(gain), fees.add(fee));
    }
  }

  static BigDecimal rounded(BigDecimal amount) {
    return amount.scale() <= SCALE ? amount : amount.setScale(SCALE, RoundingMode.HALF_EVEN);
  }

  static class Book implements Processor<String, byte[], String, byte[]> {
    private final ObjectReader reader = JSON.readerFor(Trade.class);
    private ProcessorContext<String, byte[]> context;
    private KeyValueStore<String, byte[]> positions;

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
      this.context = context;
      positions = context.getStateStore("positions");
    }

    @Override
    public void process(Record<String, byte[]> record) {
      long number = handled.incrementAndGet();
      if (number == 1) {
        System.out.printf("first %.6f%n", System.currentTimeMillis() / 1e3);
        System.out.flush();
      }
      try {
        Trade trade = reader.readValue(record.value());
        String key = trade.user_id + "|" + trade.portfolio_id + "|" + trade.symbol;
        BigDecimal size = new BigDecimal(trade.quantity), price = new BigDecimal(trade.price);
        BigDecimal notional = rounded(size.multiply(price));
        Position position = Position.read(positions.get(key));
        boolean buys = trade.side.equals("BUY");
        positions.put(key, position.after(buys, size, price, notional, new BigDecimal(trade.fee)).written());
        if (notional.compareTo(LIMIT) > 0) {
          Map<String, String> alert =
              Map.of("trade_id", trade.trade_id, "user_id", trade.user_id, "notional", notional.toPlainString());
          context.forward(record.withValue(JSON.writeValueAsBytes(alert)));
        }
      } catch (IOException error) {
        throw new RuntimeException(error);
      }
      if (number == messages) done.countDown();
    }
  }

  public static void main(String[] arguments) throws InterruptedException {
    messages = Long.parseLong(arguments[5]);
    Properties settings = new Properties();
    settings.put("bootstrap.servers", arguments[0]);
    settings.put("application.id", arguments[3]);
    settings.put("state.dir", arguments[4]);
    settings.put("num.stream.threads", "2");
    settings.put("auto.offset.reset", "earliest");
    settings.put("processing.guarantee", "exactly_once_v2");
    // room for all positions, so that a changelog record is written per position and commit, not per trade
    settings.put("statestore.cache.max.bytes", Long.toString(64L << 20));
    Topology topology = new Topology();
    topology.addSource("trades", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), arguments[1]);
    topology.addProcessor("book", Book::new, "trades");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore("positions"), Serdes.String(), Serdes.ByteArray())
            .withCachingEnabled()
            .withLoggingEnabled(Map.of()),
        "book");
    topology.addSink("alerts", arguments[2], Serdes.String().serializer(), Serdes.ByteArray().serializer(), "book");
    KafkaStreams streams = new KafkaStreams(topology, settings);
    streams.start();
    done.await();
    streams.close(Duration.ofSeconds(30));
  }
}
